# shellcheck shell=bash
# A cluster that somebody else has made, and that KUBECONFIG names.

is_foreign() {
  [ -n "${KUBECONFIG:-}" ] && [ "$KUBECONFIG" != "$KUBECONFIG_FILE" ]
}

check_foreign() {
  their_kubectl get --raw /readyz >/dev/null ||
    fail "the cluster of KUBECONFIG=$KUBECONFIG does not answer: start it, or unset KUBECONFIG"
  their_kubectl wait --for condition=Ready --timeout 60s nodes --all >&2 ||
    fail "the cluster of KUBECONFIG=$KUBECONFIG has nodes that are not ready"
  echo "$KUBECONFIG"
}

# The user's, if there is one: it takes minutes to build ours.
their_kubectl() {
  "$(which kubectl)" "$@"
}

load_foreign() {
  local archive=$1 context
  context=$(their_kubectl config current-context)
  case $context in
    kind-*)
      type -P kind >/dev/null || fail "load: the context is $context, and kind is not in PATH"
      kind load image-archive "$archive" --name "${context#kind-}" >&2
      ;;
    k3d-*)
      type -P k3d >/dev/null || fail "load: the context is $context, and k3d is not in PATH"
      k3d image import "$archive" --cluster "${context#k3d-}" >&2
      ;;
    *)
      fail "load: $context is neither kind's nor k3d's: give its nodes the image of $archive yourself"
      ;;
  esac
}
