# shellcheck shell=bash
# Builds the programs of the cluster from their Go modules, once for all checkouts.

# Those of which there is one version for each of Kubernetes'. kubectl and helm are those of go.mod, whatever
# they talk to.
readonly PROGRAMS_OF_A_VERSION=(kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubelet)

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

# Of the cluster: that of go.mod, or the one that KUBERNETES_VERSION names.
kubernetes_version() {
  local version=${KUBERNETES_VERSION:-$(wanted_version)}
  [[ $version =~ ^v1\.[0-9]+\.[0-9]+$ ]] ||
    fail "KUBERNETES_VERSION=$version: expected one such as $(wanted_version)"
  echo "$version"
}

# Whether it is of this minor version, 28 for v1.28.15, or an older one.
is_at_most() {
  local version
  version=$(kubernetes_version)
  version=${version#v1.}
  [ "${version%%.*}" -le "$1" ]
}

wanted_version() {
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
  local version=$1 folder=$2
  go_build readonly "$HERE" "$(stamp "$(wanted_version)")" "$folder" tool
  go_build readonly "$HERE/cert-manager" "-s -w" "$folder" .
  if [ "$version" != "$(wanted_version)" ]; then
    build_version "$version" "$folder"
  fi
}

# Programs of another version, in the place of those of go.mod: each from the module of that version, with what it
# has beside it in its repository (staging) as the modules that these are published as.
build_version() {
  local version=$1 folder=$2 source
  source=$(mktemp -d "$folder/source-XXXXXX")
  cp -r --no-preserve=mode "$(downloaded "k8s.io/kubernetes@$version")/." "$source"
  sed -i -E "s#=> \./staging/src/(.*)#=> \1 v0.${version#v1.}#" "$source/go.mod"
  rm -rf "$source"/go.work{,.sum} "$source/vendor"
  go_build mod "$source" "$(stamp "$version")" "$folder" \
    "${PROGRAMS_OF_A_VERSION[@]/#/./cmd/}"
  rm -r "$source"
}

# The folder of a module.
downloaded() {
  (cd / && GOFLAGS=-mod=mod go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",/\1/p'
}

# What programs say of themselves.
stamp() {
  local version=$1 flags="-s -w" package minor
  minor=${version#v1.}
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
  done
  echo "$flags"
}

# Builds packages of a module into a folder. go.mod and go.sum are as they are (readonly), or completed (mod).
go_build() {
  local mode=$1 module=$2 flags=$3 folder=$4
  (
    cd "$module"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=$mode GOWORK=off \
      nice -n 10 go build -trimpath -buildvcs=false -ldflags "$flags" -o "$folder/" "${@:5}"
  )
}
