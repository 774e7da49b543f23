"""The device: sessions, their Protocols and fakes, the thread that runs one model, and the gate they share."""
