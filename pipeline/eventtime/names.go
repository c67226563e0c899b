package eventtime

import (
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
)

// What stands in place of a device.
const (
	unknown int32 = -1 // the text is new
	refused int32 = -2 // there were max_devices before it
	byAsset int32 = -3 // src is empty: the asset is the device
)

// names gives assets, tags and devices dense numbers, by looking texts up when a dictionary changes and never per
// row.
type names struct {
	assets, tags, srcs *schemas.Keys
	ofSrc, ofAsset     []int32 // the device, by number of src and of asset
	devices            []device
	limit              int
	tagsWritten        int // tags that a snapshot has

	// Of the batch that is read:
	assetColumn, tagColumn, srcColumn *array.Dictionary
	assetOf, tagOf, srcOf             []int32 // numbers by dictionary index
	assetAt, tagAt, srcAt             []int32 // dictionary indexes by row
	lastAsset, lastSrc                int32   // the indexes that were looked at last, whose asset and device are:
	asset, device                     int32
}

// device says where a device's name stands.
type device struct {
	src bool // it is the name of a src, else of an asset
	id  int32
}

func newNames(mem memory.Allocator, maxDevices int) names {
	// Assets and tags are bounded where they are decoded.
	return names{
		assets: schemas.NewKeys(mem, math.MaxInt32), tags: schemas.NewKeys(mem, math.MaxInt32),
		srcs: schemas.NewKeys(mem, math.MaxInt32), limit: maxDevices,
	}
}

func (n *names) release() {
	for _, k := range []*schemas.Keys{n.assets, n.tags, n.srcs} {
		k.Release()
	}
}

// start takes the columns of a batch.
func (n *names) start(batch arrow.Record) {
	column := func(i int) *array.Dictionary { return batch.Column(i).(*array.Dictionary) }
	n.assetColumn, n.tagColumn, n.srcColumn = column(schemas.ColAsset), column(schemas.ColTag), column(schemas.ColSrc)
	n.assetOf, n.tagOf, n.srcOf = n.assets.Table(n.assetColumn), n.tags.Table(n.tagColumn), n.srcs.Table(n.srcColumn)
	index := func(d *array.Dictionary) []int32 { return d.Indices().(*array.Int32).Int32Values() }
	n.assetAt, n.tagAt, n.srcAt = index(n.assetColumn), index(n.tagColumn), index(n.srcColumn)
	n.lastAsset, n.lastSrc = -1, -1
}

// tag returns the tag of a row.
func (n *names) tag(i int) int32 {
	if tag := n.tagOf[n.tagAt[i]]; tag >= 0 {
		return tag
	}
	return n.tags.Add(n.tagColumn, n.tagAt[i])
}

// look finds the asset and the device of a row by their dictionary indexes. Most rows have those of the row before.
func (n *names) look(asset, src int32) {
	n.lastAsset, n.lastSrc = asset, src
	if n.asset = n.assetOf[asset]; n.asset < 0 {
		n.asset = n.assets.Add(n.assetColumn, asset)
	}
	id := n.srcOf[src]
	if id < 0 {
		id = n.srcs.Add(n.srcColumn, src)
	}
	n.device = n.deviceOf(id, n.asset)
}

// deviceOf returns the device of a row with these src and asset, making one if there is room.
func (n *names) deviceOf(src, asset int32) int32 {
	for int(src) >= len(n.ofSrc) {
		of := unknown
		if n.srcs.Text(int32(len(n.ofSrc))) == "" {
			of = byAsset
		}
		n.ofSrc = append(n.ofSrc, of)
	}
	if n.ofSrc[src] != byAsset {
		return n.known(&n.ofSrc[src], device{src: true, id: src})
	}
	for int(asset) >= len(n.ofAsset) {
		n.ofAsset = append(n.ofAsset, unknown)
	}
	return n.known(&n.ofAsset[asset], device{id: asset})
}

func (n *names) known(at *int32, d device) int32 {
	if *at == unknown {
		*at = refused
		if len(n.devices) < n.limit {
			*at = int32(len(n.devices))
			n.devices = append(n.devices, d)
		}
	}
	return *at
}

// restoreSrc returns the device that a src of a snapshot names. It may be one more than there is room for now.
func (n *names) restoreSrc(name string) int32 {
	id := n.srcs.ID([]byte(name))
	n.deviceOf(id, 0)
	return n.always(&n.ofSrc[id], device{src: true, id: id})
}

// restoreAsset returns the device that an asset of a snapshot names.
func (n *names) restoreAsset(name string) int32 {
	id := n.assets.ID([]byte(name))
	n.deviceOf(n.srcs.ID(nil), id)
	return n.always(&n.ofAsset[id], device{id: id})
}

func (n *names) always(at *int32, d device) int32 {
	if *at == refused {
		*at = int32(len(n.devices))
		n.devices = append(n.devices, d)
	}
	return *at
}

// text is the name of a device.
func (n *names) text(device int32) string {
	if d := n.devices[device]; d.src {
		return n.srcs.Text(d.id)
	}
	return n.assets.Text(n.devices[device].id)
}
