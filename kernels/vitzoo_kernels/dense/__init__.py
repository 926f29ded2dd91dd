"""Attention in which every query looks at every key."""
