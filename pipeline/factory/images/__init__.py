"""How pixels become what a network reads."""
