#!/bin/sh
# One checkpoint, several schemes: loaded once, each verified before it counts.
#   quantize.sh MODEL OUT [SCHEME]...
set -eu
[ $# -ge 2 ] || {
  echo "usage: quantize.sh MODEL OUT [SCHEME]..." >&2
  exit 2
}
model=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- fp8-dynamic int8 w4a16

mkdir -p "$out"
qload "$model" -q -o "$out/base.qmap" # refers to the model: small, made in milliseconds
trap 'rm -f "$out/base.qmap"' EXIT

for scheme; do
  qquantize "$out/base.qmap" -s "$scheme" |
    qexport -f compressed-tensors -o "$out/$scheme" |
    qverify --against "$model" --min-sqnr 10 --report "$out/$scheme.html" --top 3
done
