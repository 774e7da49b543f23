"""Makes the tiny models that are shipped as package data: `python -m tools.tiny` (needs the extra ``models``)."""
