"""The demo: a small ViT learns handwritten digits, and what it sees is drawn."""
