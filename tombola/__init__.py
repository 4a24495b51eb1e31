"""Tombola finds winning lottery tickets, proves them, shows why, and cashes them in."""

__version__ = "0.1.0"
