"""Stage 3: masks for people, from a trained model."""
