for each in "iptables 127.0.0.1 icmp" "ip6tables ::1 icmpv6"; do
    set -- $each
    for protocol in tcp $3; do
        $1 -t mangle -D PREROUTING -p $protocol -m socket --transparent --nowildcard -j MARK --set-mark 1
        $1 -t mangle -D PREROUTING -p $protocol -m mark --mark 1 -j ACCEPT
    done
    $1 -t mangle -D PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT
    $1 -t mangle -D PREROUTING -i lan -p tcp --dport 25 -j TPROXY --on-ip $2 --on-port 23025 --tproxy-mark 1
done
