# In the guest of `cargo xtask vm`, after the counts: what differs from kernel to kernel. Each line of output is for the
# program `guest` of the tests package, which says what it should be.
load=$(ls load-*)
launch=$(ls launch-*)
waits=$(ls waits-*)
# Maps count as locked memory before 5.11: the agent raises the limit, and says so where it may not.
(ulimit -l 64; ./parkranger check > /dev/null 2> said; echo "MEMORY-raised $? $(tr '\n' ' ' < said)")
./$launch memory 65536 /tmp/parkranger check > /dev/null 2> said
echo "MEMORY-kept $? $(tr '\n' ' ' < said)"

# More parks than the budget allows to count.
rm -f in answers top
mkfifo in
./$load < in > answers & target=$!
exec 3> in
echo "CHECK $(./parkranger check --json --pid $target)"
echo "start pingpong" >&3
./parkranger top --json --budget 1 --interval 1s --for 20s --pid $target > top
echo "GOVERNED $(tail -n 1 top)"
echo quit >&3
exec 3>&-
wait $target

# A story of goroutines that sleep.
rm -f in answers top
mkfifo in
./$waits < in > answers & target=$!
exec 3> in
./parkranger top --json --fidelity story --budget off --interval 1s --pid $target > top 2> said & agent=$!
tries=0; until [ -s top ] || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
echo "wait sleep 30 200" >&3
tries=0; until [ -s answers ] || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
kill -INT $agent
wait $agent
echo "SLEPT $(cat answers)"
echo "STORY $(tail -n 1 top)"
echo "STORY-said $(tr '\n' ' ' < said)"
echo quit >&3
exec 3>&-
wait $target

# Programs that begin, become others and end while a daemon watches.
ifconfig lo up
mkfifo resident
./$load < resident & first=$!
exec 4> resident
./parkranger serve --exe '/tmp/load-*' --interval 200ms --keep-ended 10m --budget off 2> serve & agent=$!
tries=0; until grep -q 'INFO ready' serve || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
sleep 2
./$load churn 2000 > births & begun=$!
wait $begun
echo "BEGUN $begun $(cat births)"
sh -c "sleep 1; exec ./$load churn 2000 > births" & begun=$!
wait $begun
echo "BECAME $begun $(cat births)"
sleep 2
echo "SERVED $(wget -q -O - http://127.0.0.1:7117/api/v1/processes)"
kill $agent
wait $agent
echo "STOPPED $?"
echo quit >&4
exec 4>&-
wait $first
