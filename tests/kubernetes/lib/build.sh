# shellcheck shell=bash
# Builds the programs of the cluster from their Go modules, once for all checkouts.

# Prints the folder of the programs, after building what is not there.
build() {
  local version folder
  version=$(kubernetes_version)
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/outrider-kubernetes/$version-$(build_key)
  if [ ! -e "$folder/complete" ]; then
    build_all "$version" "$folder" >&2
  fi
  touch "$folder/complete"
  echo "$folder"
}

kubernetes_version() {
  sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$HERE/go.mod"
}

build_key() {
  cat "$HERE/lib/build.sh" "$HERE"/{,cert-manager/}go.{mod,sum} "$HERE"/*/main.go | sha256sum | cut -c1-8
}

build_all() {
  local version=$1 folder=$2
  require_go
  mkdir -p "$folder"
  exec 8>"$folder/lock"
  flock 8
  if [ -e "$folder/complete" ]; then
    return
  fi
  say "building Kubernetes $version into $folder (some 10 minutes on two cores, once)"
  build_programs "$version" "$folder"
  touch "$folder/complete"
  # What no checkout has asked for in two weeks.
  find "${folder%/*}" -mindepth 2 -maxdepth 2 -name complete -mtime +14 -printf '%h\0' |
    xargs --null --no-run-if-empty rm -r
  exec 8>&-
}

require_go() {
  type -P go >/dev/null || fail "go is missing: install Go $(wanted_go), see https://go.dev/dl"
  local have
  have=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
  if [ "$(printf '%s\n%s\n' "$(wanted_go)" "${have#go}" | sort -V | head -n 1)" != "$(wanted_go)" ]; then
    fail "Go $(wanted_go) is needed, and here is $have: install it, see https://go.dev/dl"
  fi
}

wanted_go() {
  sed -n 's/^go //p' "$HERE/go.mod"
}

# What go.mod calls tools, and cert-manager.
build_programs() {
  local version=$1 folder=$2 flags="-s -w" package minor
  minor=${version#v1.}
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
  done
  go_build "$HERE" "$flags" "$folder" tool
  go_build "$HERE/cert-manager" "-s -w" "$folder" .
}

# Builds packages of a module into a folder.
go_build() {
  local module=$1 flags=$2 folder=$3 packages=$4
  (
    cd "$module"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off \
      nice -n 10 go build -trimpath -buildvcs=false -ldflags "$flags" -o "$folder/" "$packages"
  )
}
