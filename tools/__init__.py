"""Scripts of the workshop: they make what is shipped, and are not shipped themselves."""
