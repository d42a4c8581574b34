"""The same nets and recipes in PyTorch and Keras, to be measured beside ours; see `compare`."""
