"""Stages: the plan of a run, and how each stage of it is made, trained, kept and described."""
