for each in iptables ip6tables; do
    $each -t nat -A PREROUTING -i lan -p tcp --dport 25 -m addrtype ! --dst-type LOCAL -j REDIRECT --to-ports 23025
    $each -A FORWARD -i lan -p tcp --dport 25 -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset
done
