# docker build -t digits_jax . && docker run --rm -v "$PWD:/data" digits_jax predict photo.jpg
# To write to the mounted folder, run as its owner: docker run --user "$(id -u):$(id -g)" ...
FROM python:3.12-slim

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir . && rm -r /src/* \
 && useradd --create-home --uid 1000 digits && install -d -o digits /data

USER digits
WORKDIR /data
ENTRYPOINT ["digits-jax"]
