"""Search over architecture and loss with Ray Tune."""
