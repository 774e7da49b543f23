"""The model store: cards, folders, pointers."""
