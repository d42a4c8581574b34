"""Random search with successive halving over what a training is told; see __main__.py."""
