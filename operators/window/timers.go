package window

// timers is a heap of times, at most one for each asset: what is due is found without looking at the others.
type timers struct {
	at   []int64 // by asset; none if it waits for nothing
	pos  []int32 // by asset: its place in heap; -1 if it is not there
	heap []int32 // assets, the earliest first; of one time the one that was seen first
}

// grow adds an asset.
func (t *timers) grow() {
	t.at, t.pos = append(t.at, none), append(t.pos, -1)
}

// first returns the asset with the earliest time and that time, which is none if none waits.
func (t *timers) first() (id int32, at int64) {
	if len(t.heap) == 0 {
		return -1, none
	}
	return t.heap[0], t.at[t.heap[0]]
}

// set gives an asset another time; none takes it out.
func (t *timers) set(id int32, at int64) {
	i := t.pos[id]
	t.at[id] = at
	switch {
	case at == none && i < 0:
		return
	case at == none:
		last := len(t.heap) - 1
		t.place(int(i), t.heap[last])
		t.heap, t.pos[id] = t.heap[:last], -1
		if int(i) < last {
			t.fix(int(i))
		}
		return
	case i < 0:
		i = int32(len(t.heap))
		t.heap, t.pos[id] = append(t.heap, id), i
	}
	t.fix(int(i))
}

func (t *timers) place(i int, id int32) { t.heap[i], t.pos[id] = id, int32(i) }

func (t *timers) less(a, b int32) bool {
	return t.at[a] < t.at[b] || t.at[a] == t.at[b] && a < b
}

// fix moves the asset at i up or down to where it belongs.
func (t *timers) fix(i int) {
	id := t.heap[i]
	for i > 0 {
		up := (i - 1) / 2
		if !t.less(id, t.heap[up]) {
			break
		}
		t.place(i, t.heap[up])
		i = up
	}
	for {
		down := 2*i + 1
		if down+1 < len(t.heap) && t.less(t.heap[down+1], t.heap[down]) {
			down++
		}
		if down >= len(t.heap) || !t.less(t.heap[down], id) {
			break
		}
		t.place(i, t.heap[down])
		i = down
	}
	t.place(i, id)
}
