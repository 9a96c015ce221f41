# shellcheck shell=bash
# The CRDs of others, which are files of their Go modules.

# The Gateway API that `api` reads: that of its crate.
readonly GATEWAY_API=v1.5.1

# Each prints the folder that they are in.
gateway_api() {
  definitions "sigs.k8s.io/gateway-api@$GATEWAY_API" config/crd/experimental
}

cert_manager() {
  local module=github.com/cert-manager/cert-manager
  definitions "$module@$(sed -n "s|^\t$module \(v[0-9.]*\).*|\1|p" "$HERE/cert-manager/go.mod")" deploy/crds
}

definitions() {
  local module=$1 folder
  require_go
  folder=$(cd / && GOFLAGS=-mod=mod go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')/$2
  [ -d "$folder" ] || fail "$module has no $2: is it fetched?"
  echo "$folder"
}
