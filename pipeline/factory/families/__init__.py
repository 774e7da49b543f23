"""The families of models that the factory knows, one file each."""
