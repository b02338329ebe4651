#!/bin/sh
# Runs as root while the image is built: the folder of the deployment's state, for the service's user alone.
set -eu
install -d -o bentoml -g bentoml -m 0700 /var/lib/fraud
