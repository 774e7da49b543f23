"""What a model costs on this device."""
