"""SFA in the trainers that people use: thin adapters over :class:`sfa.averager.Averager`."""
