// Checks a log, or a pack's share of one, with the Go team's own code: golang.org/x/mod/sumdb, which every Go
// installation trusts with its modules. Nothing of AgentGate is in here but the names of files.
//
//	outside pack DIR VKEY [EARLIER]     an unpacked pack; EARLIER is a checkpoint that it must continue
//	outside tiles DIR|URL VKEY          a log as C2SP tlog-tiles, every entry of it; OUTSIDE_API_KEY is sent to a URL
//
// Exit status 0 when all holds, 1 with a sentence when something does not, 2 for a wrong command line.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	said, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL", err)
		os.Exit(1)
	}
	fmt.Println("OK", said)
}

func run(args []string) (string, error) {
	switch {
	case len(args) == 3 && args[0] == "pack":
		return verifyPack(os.DirFS(args[1]), args[2], nil)
	case len(args) == 4 && args[0] == "pack":
		earlier, err := os.ReadFile(args[3])
		if err != nil {
			return "", err
		}
		return verifyPack(os.DirFS(args[1]), args[2], earlier)
	case len(args) == 3 && args[0] == "tiles":
		return verifyTiles(args[1], args[2])
	}
	fmt.Fprintln(os.Stderr, "outside pack DIR VKEY [EARLIER] | outside tiles DIR|URL VKEY")
	os.Exit(2)
	return "", nil
}

// openCheckpoint is c2sp.org/tlog-checkpoint: a signed note of origin, size and root.
func openCheckpoint(msg []byte, vkey string) (tlog.Tree, error) {
	var tree tlog.Tree
	verifier, err := note.NewVerifier(strings.TrimSpace(vkey))
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(msg, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tree, fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil || tree.N < 0 {
		return tree, fmt.Errorf("checkpoint with size %q", lines[1])
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

// --- a pack ---------------------------------------------------------------------------------------------

func verifyPack(pack fs.FS, vkey string, earlier []byte) (string, error) {
	checkpoint, err := fs.ReadFile(pack, "checkpoint")
	if err != nil {
		return "", err
	}
	tree, err := openCheckpoint(checkpoint, vkey)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	leaves, err := leavesOf(pack)
	if err != nil {
		return "", err
	}
	for index, leaf := range leaves {
		name := fmt.Sprintf("proofs/%d.tlog-proof", index)
		raw, err := fs.ReadFile(pack, name)
		if err != nil {
			return "", err
		}
		said, proof, signed, err := parseProof(raw)
		if err == nil && (said != index || !bytes.Equal(signed, checkpoint)) {
			err = errors.New("is of another leaf or another checkpoint")
		}
		if err == nil {
			err = tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(leaf))
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	said := fmt.Sprintf("%d leaves are in the log of %d that %s signed", len(leaves), tree.N, strings.SplitN(vkey, "+", 2)[0])
	if earlier == nil {
		return said, nil
	}
	return said + ", which continues the earlier one", continues(pack, earlier, vkey, tree)
}

// leavesOf gives the leaves of a pack by index: as files, and the same ones inside pack.json.
func leavesOf(pack fs.FS) (map[int64][]byte, error) {
	raw, err := fs.ReadFile(pack, "pack.json")
	if err != nil {
		return nil, err
	}
	var body struct {
		Integrity struct {
			Events []struct {
				Index int64
				Leaf  string
			}
		}
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, fmt.Errorf("pack.json: %w", err)
	}
	leaves := map[int64][]byte{}
	for _, event := range body.Integrity.Events {
		leaves[event.Index] = []byte(event.Leaf)
	}
	files, err := fs.Glob(pack, "leaves/*.json")
	if err != nil {
		return nil, err
	}
	proofs, err := fs.Glob(pack, "proofs/*.tlog-proof")
	if err != nil {
		return nil, err
	}
	if len(files) != len(leaves) || len(proofs) != len(leaves) || len(body.Integrity.Events) != len(leaves) {
		return nil, fmt.Errorf("pack.json names %d events, and there are %d leaves and %d proofs",
			len(body.Integrity.Events), len(files), len(proofs))
	}
	for index, leaf := range leaves {
		name := fmt.Sprintf("leaves/%d.json", index)
		file, err := fs.ReadFile(pack, name)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(file, leaf) {
			return nil, fmt.Errorf("%s is not the leaf that pack.json has", name)
		}
	}
	return leaves, nil
}

// parseProof is c2sp.org/tlog-proof.
func parseProof(raw []byte) (index int64, proof tlog.RecordProof, checkpoint []byte, err error) {
	head, checkpoint, found := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return 0, nil, nil, errors.New("not a tlog-proof")
	}
	lines = lines[1:]
	if strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return 0, nil, nil, errors.New("no index line")
	}
	if index, err = strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64); err != nil {
		return 0, nil, nil, err
	}
	hashes, err := parseHashes(lines[1:])
	return index, tlog.RecordProof(hashes), checkpoint, err
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	hashes := []tlog.Hash{}
	for _, line := range lines {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return nil, fmt.Errorf("not a hash: %q", line)
		}
		hashes = append(hashes, tlog.Hash(raw))
	}
	return hashes, nil
}

// continues reads consistency/<size>, the body of a c2sp.org/tlog-witness add-checkpoint request.
func continues(pack fs.FS, earlier []byte, vkey string, tree tlog.Tree) error {
	old, err := openCheckpoint(earlier, vkey)
	if err != nil {
		return fmt.Errorf("earlier checkpoint: %w", err)
	}
	if old.N == tree.N {
		if old.Hash != tree.Hash {
			return errors.New("FORK: one size, two roots")
		}
		return nil
	}
	if old.N > tree.N {
		return fmt.Errorf("ROLLED BACK: the log had %d entries, and now %d", old.N, tree.N)
	}
	raw, err := fs.ReadFile(pack, fmt.Sprintf("consistency/%d", old.N))
	if err != nil {
		return err
	}
	head, _, _ := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if lines[0] != fmt.Sprintf("old %d", old.N) {
		return errors.New("the consistency proof is from another size")
	}
	hashes, err := parseHashes(lines[1:])
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(tlog.TreeProof(hashes), tree.N, tree.Hash, old.N, old.Hash); err != nil {
		return fmt.Errorf("FORK: %w", err)
	}
	return nil
}

// --- a log ----------------------------------------------------------------------------------------------

const tileHeight = 8

// place is where tiles are read: a folder or a base URL.
type place string

func (p place) read(path string) ([]byte, error) {
	if !strings.Contains(string(p), "://") {
		return os.ReadFile(filepath.Join(string(p), filepath.FromSlash(path)))
	}
	request, err := http.NewRequest(http.MethodGet, strings.TrimSuffix(string(p), "/")+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if key := os.Getenv("OUTSIDE_API_KEY"); key != "" {
		request.Header.Set("X-API-Key", key)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotFound {
		return nil, fs.ErrNotExist
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", path, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// readTile reads a tile; a partial one may be gone once it is full (c2sp.org/tlog-tiles).
func (p place) readTile(path string) ([]byte, error) {
	data, err := p.read(path)
	if errors.Is(err, fs.ErrNotExist) {
		if full, _, partial := strings.Cut(path, ".p/"); partial {
			return p.read(full)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// tilePath is a tile's path as C2SP has it: Go's own without the height.
func tilePath(tile tlog.Tile) string {
	return "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
}

func (place) Height() int { return tileHeight }

func (place) SaveTiles([]tlog.Tile, [][]byte) {}

func (p place) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := p.readTile(tilePath(tile))
		if err != nil {
			return nil, err
		}
		if len(data) < tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", tilePath(tile), len(data))
		}
		found = append(found, data[:tile.W*tlog.HashSize])
	}
	return found, nil
}

// verifyTiles checks every hash tile against the checkpoint and every entry against its hash.
func verifyTiles(where, vkey string) (string, error) {
	log := place(where)
	checkpoint, err := log.read("checkpoint")
	if err != nil {
		return "", err
	}
	tree, err := openCheckpoint(checkpoint, vkey)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	reader := tlog.TileHashReader(tree, log)
	const width = 1 << tileHeight
	for first := int64(0); first < tree.N; first += width {
		count := min(tree.N-first, width)
		var indexes []int64
		for n := first; n < first+count; n++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, n))
		}
		hashes, err := reader.ReadHashes(indexes)
		if err != nil {
			return "", err
		}
		entries, err := log.entries(first/width, int(count))
		if err != nil {
			return "", err
		}
		for n, entry := range entries {
			if tlog.RecordHash(entry) != hashes[n] {
				return "", fmt.Errorf("entry %d differs from its hash", first+int64(n))
			}
		}
	}
	// Every tile of every level, also those that no entry of this size needs: they must be what the leaves yield.
	for _, tile := range tlog.NewTiles(tileHeight, 0, tree.N) {
		served, err := log.ReadTiles([]tlog.Tile{tile})
		if err != nil {
			return "", err
		}
		derived, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return "", err
		}
		if !slices.Equal(served[0], derived) {
			return "", fmt.Errorf("%s is not what the tree has", tilePath(tile))
		}
	}
	return fmt.Sprintf("%d entries are the ones that %s signed", tree.N, strings.SplitN(vkey, "+", 2)[0]), nil
}

// entries reads one entry bundle: big-endian uint16 lengths, each before its entry.
func (p place) entries(bundle int64, count int) ([][]byte, error) {
	tile := tlog.Tile{H: tileHeight, L: -1, N: bundle, W: count}
	path := "tile/entries/" + strings.TrimPrefix(tilePath(tile), "tile/data/")
	data, err := p.readTile(path)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(data) > 0 && len(found) < count {
		if len(data) < 2 || len(data)-2 < int(data[0])<<8|int(data[1]) {
			return nil, fmt.Errorf("%s ends inside an entry", path)
		}
		length := int(data[0])<<8 | int(data[1])
		found = append(found, data[2:2+length])
		data = data[2+length:]
	}
	if len(found) != count {
		return nil, fmt.Errorf("%s has %d entries, not %d", path, len(found), count)
	}
	return found, nil
}
