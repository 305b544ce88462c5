"""One trained model, looked at: its figures, exact for any batch size and host count."""
