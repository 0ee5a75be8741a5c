"""Models of ``transformers``: from a config, from a folder, and what only some of them can do."""
