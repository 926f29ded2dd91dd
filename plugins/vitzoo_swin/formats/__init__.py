"""The formats of other libraries: one file a library, and what they share."""
