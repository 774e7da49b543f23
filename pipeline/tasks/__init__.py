"""What a model does: image classification and text generation, from request to output."""
