# What tests/run and tests/bench/run share: sourced, from the workspace's root.

readonly TARGET=${CARGO_TARGET_DIR:-$PWD/target}

say() {
  printf '\n==> %s\n' "$*"
}

fail() {
  printf '%s: %s\n' "$0" "$*" >&2
  exit 1
}

# Reads lines of "PROGRAM PACKAGE", and prints the Debian packages of the programs that are not here.
missing_programs() {
  local program package
  while read -r program package; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$package"
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# Packages of servers start them on installation, unless there is a policy that says no.
readonly POLICY=/usr/sbin/policy-rc.d

# Installs the packages that are named on its standard input, if there are any.
install_packages() {
  local packages
  mapfile -t packages < <(sort -u)
  if [ ${#packages[@]} = 0 ]; then
    return
  fi
  say "Installing from Debian: ${packages[*]}"
  command -v apt-get >/dev/null || fail "no apt-get here: install what provides ${packages[*]}"
  if [ "$(id -u)" != 0 ] && ! sudo -n true; then
    fail "not root, and sudo asks for a password: run apt-get install ${packages[*]}"
  fi
  local policy=
  if [ ! -e "$POLICY" ]; then
    policy=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
  fi
  local status=0
  {
    as_root apt-get update -q &&
      as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${packages[@]}"
  } || status=$?
  if [ -n "$policy" ]; then
    as_root rm -f "$POLICY"
  fi
  [ "$status" = 0 ] || fail "apt-get did not install ${packages[*]}"
}

# Whether something of a folder of tests/peers is newer than what was made of it.
is_stale() {
  [ ! -e "$2" ] || [ -n "$(find "tests/peers/$1" -newer "$2" -type f)" ]
}

build_go() {
  local peer=$TARGET/peers/grpc-go
  if ! is_stale grpc-go "$peer"; then
    return
  fi
  say "Building the grpc-go peer"
  mkdir -p "$TARGET/peers"
  (cd tests/peers/grpc-go && GOTOOLCHAIN=local GOFLAGS=-mod=readonly go build -trimpath -o "$peer" .)
}
