"""The evaluation of a trained model: figures that are exact for any batch size and host count."""
