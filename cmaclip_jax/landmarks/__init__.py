"""The stability of facial landmarks in video, and the effect of annotation noise on them."""
