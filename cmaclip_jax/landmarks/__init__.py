"""How stable facial landmarks are in video, and what the noise of annotations does to them."""
