"""Data sets, networks and recipes for the demo and for comparisons with published results."""
