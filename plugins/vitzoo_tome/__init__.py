"""Token merging for vitzoo's ViTs."""
