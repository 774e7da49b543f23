"""What a variant is measured by before it is admitted."""
