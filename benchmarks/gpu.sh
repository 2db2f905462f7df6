#!/usr/bin/env bash
# Every GPU test and figure, offline, in under ten minutes on one GPU:
#
#   bash benchmarks/gpu.sh [--wheels FOLDER] [--out FOLDER] [--device cuda] [--quick]
#
# --wheels FOLDER   wheels of packages that the machine lacks (kornia, kornia_rs, pytest, ...); they are unpacked into
#                   OUT/packages, nothing is installed. torch and torchvision are the machine's own.
# --out FOLDER      for tests.xml, tests.txt, figures.json and figures.md (default: runs/gpu)
# --device DEVICE   cuda, or cpu to try this script where there is no GPU
# --quick           the smallest sizes: the figures mean nothing
# --limit SECONDS   for the figures (default: 400); what is measured by then is kept
#
# The Python is $PYTHON, else python3. The exit code is 0 where all tests passed and no figure failed.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels="" out="runs/gpu" device="cuda" quick="" limit=400
while [ $# -gt 0 ]; do
    case "$1" in
        --wheels) wheels="$2"; shift 2 ;;
        --out) out="$2"; shift 2 ;;
        --device) device="$2"; shift 2 ;;
        --quick) quick="--quick"; shift ;;
        --limit) limit="$2"; shift 2 ;;
        *) echo "gpu.sh: $1 is no option: --wheels FOLDER, --out FOLDER, --device DEVICE, --quick, --limit SECONDS" >&2; exit 2 ;;
    esac
done
python="${PYTHON:-python3}"
mkdir -p "$out/packages"
out="$(cd "$out" && pwd)"
if [ -n "$wheels" ]; then
    for wheel in "$wheels"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$out/packages"
    done
fi
export PYTHONPATH="$PWD:$out/packages" PYTHONUNBUFFERED=1

"$python" - <<'CHECK'
import sys
from importlib.util import find_spec
needed = ("torch", "torchvision", "kornia", "kornia_rs", "numpy", "scipy", "PIL", "safetensors", "tqdm", "pytest", "hypothesis")
missing = [name for name in needed if find_spec(name) is None]
if missing:
    sys.exit(f"gpu.sh: this Python lacks {', '.join(missing)}: give their wheels by --wheels FOLDER")
CHECK

failed=0
mapfile -t tests < <(grep -rl "mark.cuda" tests --include="test_*.py")
timeout 180 "$python" -m pytest -m cuda --gpu "$device" --junitxml "$out/tests.xml" -p no:cacheprovider -ra "${tests[@]}" 2>&1 \
    | tee "$out/tests.txt" || failed=1
# shellcheck disable=SC2086
timeout "$limit" "$python" benchmarks/rendering.py gpu --device "$device" $quick --tests "$out/tests.xml" \
    --out "$out/figures.json" | tee "$out/figures.md" || failed=1
"$python" - "$out/figures.json" <<'FAILED' || failed=1
import json, sys
record = json.load(open(sys.argv[1]))
sys.exit(not record["finished"] or any("error" in part for part in record["parts"].values()))
FAILED
exit "$failed"
