# shellcheck shell=bash
# What the parts of `cluster` share: where things are, and whether it runs.

# Here is everything that it writes, but for what lib/node.sh mounts over folders of the system.
readonly STATE=/var/lib/outrider-kubernetes
readonly LOGS=$STATE/logs
readonly KUBECONFIG_FILE=$STATE/kubeconfig
readonly CONTAINERD=$STATE/containerd.sock
readonly NODE=outrider
# Below the root of each hierarchy of control groups.
readonly CGROUP=/outrider-kubernetes

# A /30 for the way between this machine and the node, out of the block for benchmarks (RFC 2544).
# What lies behind the node is to be seen from there only.
readonly VETH=outrider-kube
readonly HOST_IP4=198.18.250.1
readonly NODE_IP4=198.18.250.2
readonly HOST_IP6=fd00:250::1
readonly NODE_IP6=fd00:250::2
readonly PODS_IP4=10.244.0.0/22
readonly PODS_IP6=fd00:244::/64
readonly SERVICES_IP4=10.96.0.0/16
readonly SERVICES_IP6=fd00:96::/112
readonly DNS_IP4=10.96.0.10

# Folders that programs of the cluster write to whatever they are told. In the node, something else is
# there.
readonly SHADOWED=(/run /var/log /var/lib/kubelet /var/lib/cni)

if [ -e /proc/net/if_inet6 ]; then
  readonly IPV6=yes
else
  readonly IPV6=
fi

# Debian keeps some programs of the system's where only root looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() {
  printf 'cluster: %s\n' "$*" >&2
}

fail() {
  say "$*"
  exit 1
}

require_root() {
  [ "$(id -u)" = 0 ] || fail "needs root: run it with sudo"
}

# One at a time, until this script ends.
with_lock() {
  mkdir -p /run/lock
  exec 9>/run/lock/outrider-kubernetes.lock
  flock 9
}

is_alive() {
  [ -n "$1" ] && [ -e "/proc/$1" ] && [ "$(process_state "$1")" != Z ]
}

process_state() {
  sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null || true
}

# Whether the process that STATE names is a node of ours, and not another that has its number.
is_running() {
  local process
  process=$(cat "$STATE/pid" 2>/dev/null) && is_alive "$process" &&
    [[ $(command_line "$process") == *kubernetes/lib/node.sh* ]]
}

# Prints the process that is the first one within the node.
node_process() {
  local parent children
  parent=$(cat "$STATE/pid")
  read -r children _ <"/proc/$parent/task/$parent/children"
  # Before it has come to be the shell it may not have its namespaces.
  [[ $(command_line "$children") == bash\ *kubernetes/lib/node.sh* ]] && echo "$children"
}

command_line() {
  tr '\0' ' ' <"/proc/$1/cmdline"
}

kubectl() {
  "$(cat "$STATE/programs")/kubectl" --kubeconfig "$KUBECONFIG_FILE" "$@"
}

ctr() {
  command ctr --address "$CONTAINERD" "$@"
}

# Where control groups are: one folder on v2, one for each controller on v1.
cgroup_roots() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
    return
  fi
  local folder
  for folder in /sys/fs/cgroup/*; do
    if [ ! -L "$folder" ] && [ -e "$folder/cgroup.procs" ]; then
      echo "$folder"
    fi
  done
}
