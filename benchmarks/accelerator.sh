#!/usr/bin/env bash
# Measures on a machine with a GPU or TPU what the project promises for one, within 8 minutes, as one Markdown file.
#
#     bash benchmarks/accelerator.sh [OUT.md]
#
# It needs the installed project and nothing else; all data are generated. Parts that would end too late are
# stopped, and the file says so. QUICK=1 makes most parts small, with more time, to try the script on a CPU. PYTHON names the
# interpreter. The 50 trainings are ten folds of LFMC's size with five seeds, as one program.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/accelerator.md}
python=${PYTHON:-python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TF_CPP_MIN_LOG_LEVEL=2

part() {  # part SECONDS TITLE MODULE FLAGS...: runs a benchmark, and adds its output to the file
  local limit=$(($1 * slower)) title=$2 module=$3 began=$SECONDS status=0
  shift 3
  printf '\n## %s\n\n    python -m %s %s\n\n' "$title" "$module" "$*" >>"$out"
  timeout "$limit" "$python" -m "$module" "$@" >"$folder/out" 2>"$folder/err" || status=$?
  grep -v '^# ' "$folder/out" | cat -s >>"$out"
  case $status in
    0) printf '\nTook %d s.\n' $((SECONDS - began)) >>"$out" ;;
    124) printf '\nStopped after %d s.\n' "$limit" >>"$out" ;;
    *) printf '\nFailed: %s\n' "$(tail -n 1 "$folder/err")" >>"$out" && failed=yes ;;
  esac
}

failed=
mkdir -p "$(dirname "$out")"
"$python" - >"$out" <<'PYTHON'
import os, platform, jax
print(f"# {jax.devices()[0].device_kind}\n")
print(f"{jax.device_count()} device(s), {os.cpu_count()} processor cores ({platform.machine()}), jax {jax.__version__}.")
print("Written by `bash benchmarks/accelerator.sh`.")
PYTHON
epochs=(--epochs=10) folds=(--epochs=40) seconds=8 samples=128 batch=32 encoders=() models=() slower=1
if [[ -n ${QUICK:-} ]]; then
  epochs=(--epochs=2) folds=(--epochs=1) seconds=1 samples=16 batch=4 encoders=(--encoders=mlp,gru) models=(--models=lfmc) slower=10
fi
part 120 "50 trainings as one program" benchmarks.suite --only=replicas "${folds[@]}"
part 120 "Train steps, TreeSatAI-TS in bfloat16 among them" benchmarks.suite --only=steps "${epochs[@]}"
part 60 "Ring against dense" benchmarks.suite --only=ring "${epochs[@]}"
part 60 "Encoders" benchmarks.encoders --rounds=3 "${encoders[@]}"
part 60 "Reading and training at real image sizes" benchmarks.pipeline --rounds=1 --seconds="$seconds" \
  --samples="$samples" --batch_size="$batch"
part 60 "Exported models" benchmarks.deploy --scene=0 --rounds=3 --starts=2 "${models[@]}"
echo "$out"
[[ -z $failed ]]
