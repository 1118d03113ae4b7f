#!/bin/sh
# Makes benchmarks/.peers: the peers' own environment, with the torch and transformers of the environment given.
# repeng 0.4.0 needs numpy < 2 and both pin an older transformers, so they cannot live beside hf_icon2.
#
#   sh benchmarks/peers.sh [python of the environment hf_icon2 is installed in; default .venv/bin/python]
set -eu
host=${1:-.venv/bin/python}
here=$(dirname "$0")
peers=$here/.peers

"$host" -m venv "$peers"
pip="$peers/bin/python -m pip install --quiet --disable-pip-version-check"
$pip 'numpy==1.26.4' 'scikit-learn==1.7.2' 'gguf==0.17.1'
$pip --no-deps 'repeng==0.4.0' 'steering-vectors==0.12.2'
# Found last, so that numpy 1.26 wins and everything else is the very same file. The host's pyarrow wants numpy 2;
# scikit-learn does without it where it is missing.
site='import sysconfig; print(sysconfig.get_path("purelib"))'
{ "$host" -c "$site"; echo 'import sys; sys.modules["pyarrow"] = None'; } > "$("$peers/bin/python" -c "$site")/zz_host.pth"
"$peers/bin/python" -c '
import numpy, repeng, sklearn, steering_vectors, torch, transformers
print("numpy", numpy.__version__, "scikit-learn", sklearn.__version__,
      "torch", torch.__version__, "transformers", transformers.__version__)'
