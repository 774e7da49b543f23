"""Models: the card that describes one, the store that keeps them, and the recipes that build them."""
