"""Proximal steps in training loops that others wrote: each module needs the extra of its name."""
