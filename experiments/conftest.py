"""The peers' trainers import PyTorch and Keras, which tests do without."""

collect_ignore = ["peers/keras_train.py", "peers/torch_train.py"]
