#!/usr/bin/env bash
# The C++ kernels against their specification: under the sanitizers here, and on NEON in an emulator. CASES=100 as given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cases=${CASES:-100}

build() {  # NAME CMAKE_OPTION...
  local folder=build/check-$1
  shift
  cmake -S . -B "$folder" -DQWEN3_CHECK=ON "$@" >/dev/null
  cmake --build "$folder" --parallel >/dev/null
}

for sanitizers in address,undefined thread; do
  echo "== -fsanitize=$sanitizers"
  flags="-fsanitize=$sanitizers -fno-sanitize-recover=all -g1"
  build "${sanitizers%,*}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$flags"
  QWEN3_THREADS=4 "build/check-${sanitizers%,*}/native_check" "$cases"
done

if command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null; then
  echo "== aarch64 under qemu-user"
  build aarch64 -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  QWEN3_THREADS=2 qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max build/check-aarch64/native_check "$cases"
else
  echo "== aarch64: not tested; it needs the packages g++-aarch64-linux-gnu and qemu-user (Debian's names)"
fi
