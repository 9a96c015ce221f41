#!/usr/bin/env bash
# The node: the first process of its PID namespace. Sets up mounts and network, starts the programs,
# and starts again what ends. `cluster` runs it, and ends the whole cluster by killing it.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly HERE
. "$HERE/lib/common.sh"
readonly PROGRAMS=$1
readonly PKI=$STATE/pki
readonly CONFIGURATION=$STATE/configuration

main() {
  set_up_mounts
  set_up_network
  supervise containerd containerd --config "$CONFIGURATION/containerd.toml"
  supervise etcd etcd --data-dir "$STATE/etcd/data" --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
  await_url http://127.0.0.1:2379/health
  start_api_server
  await_url "https://$NODE_IP4:6443/readyz"
  start_controller_manager
  supervise kube-scheduler "$PROGRAMS/kube-scheduler" --leader-elect=false \
    --kubeconfig "$CONFIGURATION/kube-scheduler.kubeconfig"
  supervise kube-proxy "$PROGRAMS/kube-proxy" --config "$CONFIGURATION/kube-proxy.yaml"
  supervise kubelet "$PROGRAMS/kubelet" --config "$CONFIGURATION/kubelet.yaml" \
    --kubeconfig "$CONFIGURATION/kubelet.kubeconfig" --root-dir "$STATE/kubelet" \
    --hostname-override "$NODE" --node-ip "$(both "$NODE_IP4" "$NODE_IP6")"
  # For ever: and whatever loses its parent in this namespace is reaped meanwhile.
  while true; do
    wait -n || sleep 1
  done
}

set_up_mounts() {
  mkdir -p "$STATE/etcd" "$STATE/shadow"
  # Nothing here outlives the cluster: no disk need be waited for.
  mount -t tmpfs -o size=1g tmpfs "$STATE/etcd"
  local folder
  for folder in "${SHADOWED[@]}"; do
    mkdir -p "$STATE/shadow$folder"
    mount --bind "$STATE/shadow$folder" "$folder"
  done
  mount -t tmpfs tmpfs /run
  # The kubelet sets these, which are the whole machine's. Where it finds what it wants it writes
  # nothing; so it finds that.
  pretend vm/overcommit_memory 1
  pretend vm/panic_on_oom 0
  pretend kernel/panic 10
  pretend kernel/panic_on_oops 1
  pretend kernel/keys/root_maxkeys 1000000
  pretend kernel/keys/root_maxbytes 25000000
}

pretend() {
  local file=/run/sysctl/${1//\//.}
  mkdir -p /run/sysctl
  echo "$2" >"$file"
  mount --bind "$file" "/proc/sys/$1"
}

set_up_network() {
  ip link set lo up
  # `cluster` moves it here.
  until ip link show eth0 >/dev/null 2>&1; do
    sleep 0.02
  done
  ip link set eth0 up
  ip address add "$NODE_IP4/30" dev eth0
  # The first look-up of a route comes before kube-proxy's rules, and has to find one.
  ip route add "$SERVICES_IP4" dev eth0 src "$NODE_IP4"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  if [ -n "$IPV6" ]; then
    ip address add "$NODE_IP6/126" dev eth0 nodad
    ip route add "$SERVICES_IP6" dev eth0 src "$NODE_IP6"
    echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
  fi
  # This machine knows no way to a pod: to it, what a pod sends is the node's.
  nft -f - <<EOF
table inet outrider-node {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname eth0 ip saddr $PODS_IP4 masquerade
    oifname eth0 ip6 saddr $PODS_IP6 masquerade
  }
}
EOF
}

both() {
  echo "$1${IPV6:+,$2}"
}

# The way to look at the node from inside: kubectl exec, logs and port-forward come by its kubelet.
start_api_server() {
  supervise kube-apiserver "$PROGRAMS/kube-apiserver" \
    --etcd-servers http://127.0.0.1:2379 \
    --advertise-address "$NODE_IP4" \
    --service-cluster-ip-range "$(both "$SERVICES_IP4" "$SERVICES_IP6")" \
    --client-ca-file "$PKI/ca.crt" \
    --tls-cert-file "$PKI/kube-apiserver.crt" --tls-private-key-file "$PKI/kube-apiserver.key" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$PKI/accounts.pub" \
    --service-account-signing-key-file "$PKI/accounts.key" \
    --kubelet-client-certificate "$PKI/kubelet-client.crt" \
    --kubelet-client-key "$PKI/kubelet-client.key" \
    --kubelet-certificate-authority "$PKI/ca.crt" \
    --kubelet-preferred-address-types InternalIP \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --allow-privileged
}

start_controller_manager() {
  supervise kube-controller-manager "$PROGRAMS/kube-controller-manager" --leader-elect=false \
    --kubeconfig "$CONFIGURATION/kube-controller-manager.kubeconfig" \
    --use-service-account-credentials \
    --service-account-private-key-file "$PKI/accounts.key" \
    --root-ca-file "$PKI/ca.crt" \
    --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key"
}

await_url() {
  until curl --silent --fail --output /dev/null --cacert "$PKI/ca.crt" "$1"; do
    sleep 0.1
  done
}

# Starts a program, and again whenever it ends. Until the cluster is up, `cluster` takes an end as a
# failure.
supervise() {
  local name=$1 status
  shift
  while true; do
    status=0
    "$@" >>"$LOGS/$name.log" 2>&1 || status=$?
    echo "$name ended with $status" | tee -a "$LOGS/$name.log" >>"$STATE/ended"
    sleep 1
  done &
}

main
