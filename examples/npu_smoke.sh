#!/usr/bin/env bash
# Runs fa3 on an NPU (Atlas 800I A2) and writes a report to send back: npu_smoke_<date>.txt.
#
#     pip install 'fa3cli[npu]' && source /usr/local/Ascend/ascend-toolkit/set_env.sh
#     examples/npu_smoke.sh                    # a few minutes; exit 0: every step passed
#     DEVICE=cpu examples/npu_smoke.sh         # the same steps without an NPU
#
# A failed step does not stop the others. The model is examples/qwen2-tiny (4 million parameters). Everything except the
# report is written to a folder under TMPDIR that is removed at the end. The out-of-memory step limits the memory of its
# own process; other processes are not affected.
#
# DEVICE   npu:0      PYTHON   python3 of the environment with fa3cli       REPORT   the report's file
# SAMPLES  8          DTYPES   "bfloat16 float16"                           STEPS    all, or some of these names
# Steps: doctor versions patch cpu device again verify compare against settings oom ranks resume
# shellcheck disable=SC2329 # step calls the functions
set -euo pipefail

DEVICE=${DEVICE:-npu:0}
PYTHON=${PYTHON:-python3}
SAMPLES=${SAMPLES:-8}
DTYPES=${DTYPES:-bfloat16 float16}
STEPS=${STEPS:-all}
REPORT=$(realpath -m "${REPORT:-npu_smoke_$(date +%Y%m%d-%H%M%S).txt}")

examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$(command -v "$PYTHON") || { echo "PYTHON=$PYTHON: no such command" >&2 && exit 2; }
[[ $python == /* ]] || python=$PWD/$python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" # not the checkout: the installed fa3cli must run
export HF_MODULES_CACHE=$work/modules HF_HUB_OFFLINE=1
model=$work/qwen2-tiny calib=$examples/qwen2-tiny-calib.jsonl text=$examples/qwen2-tiny-eval.jsonl
summary=() failed=0

wanted() { [[ $STEPS == all || " $STEPS " == *" $1 "* ]]; }

say() { printf '%s\n' "$*" | tee -a "$REPORT"; }

# step NAME EXIT_CODES COMMAND...: runs a command; records its output, time and exit code. `0 75` accepts both codes.
step() {
    local name=$1 good=$2 code=0 begin end verdict=passed
    shift 2
    printf '\n==== %s\n$ %s\n' "$name" "$*" >>"$REPORT"
    begin=$(date +%s%N)
    "$@" >step.log 2>&1 || code=$?
    end=$(date +%s%N)
    # The last line of --json's progress, and the last 120 lines of all other output.
    { grep -v '"event": "progress"' step.log || true; } | tail -n 120 >>"$REPORT"
    { grep '"event": "progress"' step.log || true; } | tail -n 1 >>"$REPORT"
    if [[ " $good " != *" $code "* ]]; then
        verdict="FAILED" failed=1
    fi
    summary+=("$(printf '%-34s %-8s exit %-3s %7d ms' "$name" "$verdict" "$code" $(((end - begin) / 1000000)))")
    printf -- '---- %s: exit %s\n' "$verdict" "$code" >>"$REPORT"
    printf '%s\n' "${summary[-1]}"
}

skip() { summary+=("$(printf '%-34s skipped  %s' "$1" "$2")") && printf '%s\n' "${summary[-1]}"; }

fa3() { "$python" -m fa3cli "$@"; }

quantize() { # quantize DEVICE OUTPUT OPTION...
    fa3 quantize "$model" --calib "$calib" --samples "$SAMPLES" --device "$1" --output "$2" --json "${@:3}"
}

versions() {
    uname -a
    "$python" - <<'END'
import importlib
import platform
from importlib import metadata

print("python", platform.python_version())
for name in ("fa3cli", "torch", "torch_npu", "transformers", "safetensors", "accelerate", "numpy"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
import torch

print(torch.__config__.parallel_info())
try:
    importlib.import_module("torch_npu")
except Exception as error:
    print("torch_npu:", type(error).__name__, error)
else:
    npu = torch.npu
    print("NPUs:", npu.device_count(), "available:", npu.is_available())
    for number in range(npu.device_count()):
        print(number, npu.get_device_name(number), npu.get_device_properties(number))
    print("bfloat16:", npu.is_bf16_supported())
END
    env | grep -E '^(ASCEND|CANN|HCCL|TASK_QUEUE|PYTORCH_NPU|OMP_)' || true
    cat "${ASCEND_TOOLKIT_HOME:-/usr/local/Ascend/ascend-toolkit/latest}"/*/ascend_toolkit_install.info 2>/dev/null || true
    npu-smi info 2>/dev/null || echo "no npu-smi"
}

devices() { # prints the number of devices of DEVICE's kind; the CPU counts as two, since its ranks share it
    [[ $DEVICE == cpu ]] && echo 2 && return
    "$python" -c 'import torch, torch_npu; print(torch.npu.device_count())' 2>/dev/null || echo 0
}

# A run that may use only a share of the device's memory. It must make an export, or say what it lacks.
short_of_memory() { # short_of_memory SHARE OUTPUT
    "$python" - "$DEVICE" "$1" "$model" "$work/long.jsonl" "$2" <<'END'
import sys

import torch
import torch_npu

from fa3cli.cli import main

device, share, model, calib, output = sys.argv[1:]
torch.npu.set_device(device)
torch.npu.set_per_process_memory_fraction(float(share), torch.device(device).index or 0)
sys.argv = ["fa3", "quantize", model, "--calib", calib, "--device", device, "--output", output, "--json"]
main()
END
}

# One line of 32 x 512 tokens: a layer's attention needs half a gigabyte.
long_lines() {
    "$python" -c 'import json; print(json.dumps({"input_ids": [[7 + (i * j) % 2000 for j in range(512)] for i in range(32)]}))'
}

# Stops a run after its second layer, as Ctrl-C does (by SIGTERM: background jobs of a script ignore SIGINT).
interrupted() {
    local run code=0
    for _ in {1..6}; do cat "$calib"; done >many.jsonl
    "$python" -m fa3cli quantize "$model" --calib many.jsonl --device "$DEVICE" --output resumed --json >run.log 2>&1 &
    run=$!
    until grep -q '"layer": 1' run.log || ! kill -0 "$run" 2>/dev/null; do sleep 0.05; done
    kill -TERM "$run" 2>/dev/null || true
    wait "$run" || code=$?
    tail -n 5 run.log
    return "$code"
}

resumed() { fa3 quantize "$model" --calib many.jsonl --device "$DEVICE" --output resumed --json --resume required; }

whole() { fa3 quantize "$model" --calib many.jsonl --device "$DEVICE" --output whole --json --resume never; }

compare() { "$python" "$examples/compare_exports.py" "$@"; }

: >"$REPORT"
say "fa3 on $DEVICE, $(date -u +%Y-%m-%dT%H:%M:%SZ), $SAMPLES samples"
cp -r "$examples/qwen2-tiny" "$model"
long_lines >long.jsonl

if wanted doctor; then step "doctor" 0 fa3 doctor; fi
if wanted versions; then step "versions" 0 versions; fi
if wanted patch; then step "patch" 0 fa3 patch "$model"; fi
for dtype in $DTYPES; do
    if wanted cpu; then step "quantize cpu $dtype" 0 quantize cpu "cpu-$dtype" --dtype "$dtype"; fi
    if wanted device; then step "quantize $DEVICE $dtype" 0 quantize "$DEVICE" "device-$dtype" --dtype "$dtype"; fi
    # The first run compiled or loaded kernels; the time of this one is without that.
    if wanted again; then step "quantize $DEVICE $dtype again" 0 quantize "$DEVICE" "again-$dtype" --dtype "$dtype"; fi
    if wanted verify; then
        step "verify cpu $dtype" 0 fa3 verify "cpu-$dtype"
        step "verify $DEVICE $dtype" 0 fa3 verify "device-$dtype"
    fi
    if wanted compare; then step "compare $dtype: cpu, $DEVICE" 0 compare "cpu-$dtype" "device-$dtype"; fi
    if wanted again; then step "compare $dtype: $DEVICE twice" 0 compare "device-$dtype" "again-$dtype"; fi
done
# Runs on the device that --device auto chooses.
if wanted against; then
    head -n 16 "$text" >text.jsonl
    step "verify --against" 0 fa3 verify "device-${DTYPES%% *}" --against "$model" --eval text.jsonl
fi
if wanted settings; then
    for options in "--anti-method m1" "--anti-method m2" "--anti-method m3" "--anti-method m4" "--anti-method m5" \
        "--anti-method m6" "--act-method 2 --no-disable-last-linear" "--act-method 3 --disable-level L2 --mm-tensor" \
        "--fa-amp 1 --fa-score error" "--numerics reference --act-method 3 --anti-method m3"; do
        read -ra words <<<"$options"
        step "$options" 0 quantize "$DEVICE" "settings${options// /}" --samples 6 "${words[@]}"
    done
fi
if wanted oom; then
    if [[ $DEVICE == npu* ]]; then
        for share in 0.001 0.004 0.016 0.1; do
            step "$share of the memory" "0 6" short_of_memory "$share" "short-$share"
        done
        step "a run afterwards" 0 quantize "$DEVICE" after
    else
        skip "out of memory" "needs an NPU"
    fi
fi
if wanted ranks; then
    if (($(devices) >= 2)); then
        step "--nproc 2" 0 quantize "${DEVICE%%:*}" ranks --nproc 2 --dtype "${DTYPES%% *}"
        step "compare: one rank, two" 0 compare "device-${DTYPES%% *}" ranks
    else
        skip "--nproc 2" "needs two devices"
    fi
fi
if wanted resume; then
    step "Ctrl-C" 75 interrupted
    step "resume" 0 resumed
    step "whole" 0 whole
    step "compare: resumed, whole" 0 compare resumed whole
fi

say ""
for line in "${summary[@]}"; do printf '%s\n' "$line" >>"$REPORT"; done
if ((failed)); then say "FAILED; the report is $REPORT"; else say "all passed; the report is $REPORT"; fi
exit "$failed"
