"""The factory: builds, quantizes, measures and fetches models. A worker that only serves imports nothing of it."""
