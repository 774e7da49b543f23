"""Models that Millrace knows how to fetch and make."""
