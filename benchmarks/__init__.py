"""Figures of Tierflow, measured side by side in one run: `make bench`."""
