# shellcheck shell=bash
# The Gateway API's CRDs.

# The Gateway API that `api` reads: that of its crate.
readonly GATEWAY_API=v1.5.1

# Prints the folder of the CRDs, which are files of a Go module.
gateway_api() {
  local module folder
  module=sigs.k8s.io/gateway-api@$GATEWAY_API
  require_go
  folder=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [ -d "$folder/config/crd/experimental" ] || fail "$module has no config/crd/experimental: is it fetched?"
  echo "$folder/config/crd/experimental"
}
