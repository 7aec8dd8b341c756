# Shell functions of ./demo and ./check; sourced, POSIX sh. Needs $root, the top of the repository,
# and $me, the name in messages.
# shellcheck shell=sh disable=SC2154  # $root and $me are the caller's

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() {
  say "$*"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# A CMake that is new enough, wherever it comes from.
have_cmake() {
  have cmake || return 1
  version=$(cmake --version | sed -n 's/^cmake version //p')
  major=${version%%.*}
  rest=${version#*.}
  minor=${rest%%.*}
  [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge 25 ]; }
}

# Whether a Debian package's job can be done here. Tools may come from elsewhere; libraries are
# asked for by package, or left to CMake where there is no dpkg.
is_there() {
  case $1 in
    g++) have c++ || have g++ ;;
    cmake) have_cmake ;;
    ninja-build) have ninja ;;
    pkg-config) have pkg-config ;;
    python3) have python3 ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    clang-14) have clang++-14 ;;
    dpkg-dev) have dpkg-shlibdeps ;;
    mandoc | shellcheck | dash | file | make | zsh | fish | zstd) have "$1" ;;
    *) ! have dpkg-query || dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' ;;
  esac
}

# need_packages PACKAGE...: installs those that are missing, as root or with sudo after asking.
need_packages() {
  missing=''
  for package; do
    is_there "$package" || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  say "missing:$missing"
  as_root=''
  if [ "$(id -u)" -ne 0 ]; then
    if ! have apt-get || ! have sudo || ! [ -t 0 ]; then
      die "install these packages, then run this again"
    fi
    printf 'Install them with sudo apt-get? [y/N] ' >&2
    read -r answer
    case $answer in
      [yY]*) as_root=sudo ;;
      *) die "install them, then run this again" ;;
    esac
  fi
  have apt-get || die "no apt-get here: install what these Debian packages hold, then run this again"
  # shellcheck disable=SC2086  # a list of words
  install_packages || { $as_root apt-get update && install_packages; } ||
    die "apt-get could not install:$missing"
}

install_packages() {
  # shellcheck disable=SC2086  # a list of words
  $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends $missing
}

# shellcheck disable=SC2034  # for the caller
build_packages="g++ cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libzstd-dev
  libxxhash-dev libpcre2-dev libicu-dev libssl-dev zlib1g-dev libgtest-dev python3"

# build PRESET TARGETS [CMAKE OPTION...]: configures and builds build/PRESET, ccache helping where
# it is. TARGETS is a list of words; "all" is everything.
build() {
  preset=$1 targets=$2
  shift 2
  if have ccache; then
    set -- "$@" -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
  fi
  # shellcheck disable=SC2086  # a list of words
  (cd "$root" && cmake --preset "$preset" "$@" && cmake --build --preset "$preset" --target $targets)
}

# cache_dir NAME: a folder outside the source tree that outlives builds.
cache_dir() {
  printf '%s/qpipe/%s' "${XDG_CACHE_HOME:-$HOME/.cache}" "$1"
}

# refuse_nvidia PYTHON REQUIREMENT...: dies when pip would bring CUDA packages.
refuse_nvidia() {
  python=$1
  shift
  report=$(mktemp)
  if ! "$python" -m pip install --quiet --dry-run --ignore-installed --report "$report" "$@"; then
    rm -f "$report"
    die "pip cannot resolve: $* (QPIPE_TORCH names another wheel or requirement)"
  fi
  cuda=$("$python" - "$report" <<'PY'
import json, sys
names = [i["metadata"]["name"] for i in json.load(open(sys.argv[1]))["install"]]
names = [n for n in names if n.lower() != "nvidia-modelopt"]  # no part of CUDA
print(" ".join(n for n in names if n.lower().startswith(("nvidia", "triton", "cuda"))))
PY
  )
  rm -f "$report"
  [ -z "$cuda" ] ||
    die "pip would bring CUDA packages ($cuda); set QPIPE_TORCH to a CPU wheel or requirement"
}

# python_env DIR TORCH REQUIREMENTS-FILE [PIP-OPTION]: a finished virtual environment, made once.
# TORCH is installed first and pinned for the rest; "" when none is needed.
python_env() {
  env=$1 torch=$2 requirements=$3
  shift 3
  if [ -f "$env/complete" ] && cmp -s "$env/complete" "$requirements"; then
    return 0
  fi
  rm -rf "$env"
  mkdir -p "$(dirname "$env")"
  python3 -m venv "$env"
  pins=$env/pins.txt
  : >"$pins"
  if [ -n "$torch" ]; then
    refuse_nvidia "$env/bin/python" "$torch"
    "$env/bin/python" -m pip install --quiet "$torch"
    "$env/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
      >"$pins"
  fi
  refuse_nvidia "$env/bin/python" "$@" -c "$pins" -r "$requirements"
  "$env/bin/python" -m pip install --quiet "$@" -c "$pins" -r "$requirements"
  cp "$requirements" "$env/complete"
}
