# shellcheck shell=bash
# The configuration files of the programs, and a kubeconfig for each.

readonly CONFIGURATION=$STATE/configuration

readonly PAUSE_IMAGE=outrider.test/pause:1

write_configuration() {
  local name
  mkdir -p "$CONFIGURATION/cni"
  for name in kube-controller-manager kube-scheduler kube-proxy kubelet; do
    kubeconfig "$name" "$CONFIGURATION/$name.kubeconfig"
  done
  kubeconfig admin "$KUBECONFIG_FILE"
  # No name is asked outside of the cluster.
  : >"$CONFIGURATION/resolv.conf"
  write_containerd
  write_cni
  write_kubelet
  write_kube_proxy
}

# A comma and the IPv6 one after the IPv4 one, where there is IPv6.
both() {
  echo "$1${IPV6:+,$2}"
}

# Without CAP_SYS_RESOURCE, as in some virtual machines, nobody may lower an oom_score_adj: so nothing
# tries.
write_containerd() {
  cat >"$CONFIGURATION/containerd.toml" <<EOF
version = 2
root = "$STATE/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "$CONTAINERD"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
# As containerd 2 does unasked.
enable_unprivileged_ports = true
enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "$(snapshotter)"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$(cni_plugins)"
conf_dir = "$CONFIGURATION/cni"
EOF
}

# Overlays, unless our folder lies on one itself, as in a container: then copies.
snapshotter() {
  case $(stat --file-system --format %T "$STATE") in
    overlayfs) echo native ;;
    *) echo overlayfs ;;
  esac
}

cni_plugins() {
  local folder
  for folder in /usr/lib/cni /opt/cni/bin; do
    if [ -x "$folder/ptp" ]; then
      echo "$folder"
      return
    fi
  done
  fail "the CNI plugins are missing: apt-get install containernetworking-plugins"
}

# A pair of interfaces for each pod, and the node routes between them: with a bridge, an answer from
# pod to pod would pass by what kube-proxy has to undo in it.
write_cni() {
  local ranges routes
  ranges="[{\"subnet\": \"$PODS_IP4\"}]"
  routes='{"dst": "0.0.0.0/0"}'
  if [ -n "$IPV6" ]; then
    ranges+=", [{\"subnet\": \"$PODS_IP6\"}]"
    routes+=', {"dst": "::/0"}'
  fi
  cat >"$CONFIGURATION/cni/10-outrider.conflist" <<EOF
{
  "cniVersion": "1.0.0",
  "name": "outrider",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [$ranges], "routes": [$routes]}
    }
  ]
}
EOF
}

# Images are never fetched, so none may be collected; and a disk that is nearly full is no reason to
# evict a test.
write_kubelet() {
  cat >"$CONFIGURATION/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet.crt
tlsPrivateKeyFile: $PKI/kubelet.key
containerRuntimeEndpoint: unix://$CONTAINERD
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP
$(is_at_most 30 || echo "failCgroupV1: false")
failSwapOn: false
clusterDNS: [$DNS_IP4]
clusterDomain: cluster.local
resolvConf: $CONFIGURATION/resolv.conf
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
maxPods: 250
volumePluginDir: $STATE/volume-plugins
EOF
}

# Before 1.31, kube-proxy knows nothing of nftables unless it is asked.
write_kube_proxy() {
  local mode=nftables
  if is_at_most 30; then
    mode=iptables
  fi
  cat >"$CONFIGURATION/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $mode
clientConnection: {kubeconfig: $CONFIGURATION/kube-proxy.kubeconfig}
clusterCIDR: $(both "$PODS_IP4" "$PODS_IP6")
hostnameOverride: $NODE
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
$mode: {minSyncPeriod: 100ms}
EOF
}
